"""Pictures and tables: curves, attention, images, what classifiers and matchers do, text tables."""

from common.visualization.attention import plot_attention
from common.visualization.class_scores import plot_class_scores
from common.visualization.confusion import plot_confusion_matrix
from common.visualization.curves import plot_training_curves
from common.visualization.embedding_map import plot_embedding_map
from common.visualization.grad_cam import plot_grad_cam
from common.visualization.image_attention import plot_image_attention
from common.visualization.image_sheet import plot_image_sheet
from common.visualization.images import plot_image_grid
from common.visualization.neighbors import NeighborRow, plot_neighbors
from common.visualization.reliability import plot_reliability
from common.visualization.roc import plot_precision_recall_curves, plot_roc_curves
from common.visualization.tables import text_table
from common.visualization.threshold import plot_threshold_curve

__all__ = [
    "NeighborRow",
    "plot_attention",
    "plot_class_scores",
    "plot_confusion_matrix",
    "plot_embedding_map",
    "plot_grad_cam",
    "plot_image_attention",
    "plot_image_grid",
    "plot_image_sheet",
    "plot_neighbors",
    "plot_precision_recall_curves",
    "plot_reliability",
    "plot_roc_curves",
    "plot_threshold_curve",
    "plot_training_curves",
    "text_table",
]
