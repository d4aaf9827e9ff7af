"""Pictures and tables: curves, attention maps, images, what a classifier does, text tables."""

from common.visualization.attention import plot_attention
from common.visualization.class_scores import plot_class_scores
from common.visualization.confusion import plot_confusion_matrix
from common.visualization.curves import plot_training_curves
from common.visualization.grad_cam import plot_grad_cam
from common.visualization.image_sheet import plot_image_sheet
from common.visualization.images import plot_image_grid
from common.visualization.reliability import plot_reliability
from common.visualization.roc import plot_precision_recall_curves, plot_roc_curves
from common.visualization.tables import text_table

__all__ = [
    "plot_attention",
    "plot_class_scores",
    "plot_confusion_matrix",
    "plot_grad_cam",
    "plot_image_grid",
    "plot_image_sheet",
    "plot_precision_recall_curves",
    "plot_reliability",
    "plot_roc_curves",
    "plot_training_curves",
    "text_table",
]
