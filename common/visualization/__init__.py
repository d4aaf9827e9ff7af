"""Pictures and tables: training curves, attention maps, grids of images, text tables."""

from common.visualization.attention import plot_attention
from common.visualization.curves import plot_training_curves
from common.visualization.images import plot_image_grid
from common.visualization.tables import text_table

__all__ = ["plot_attention", "plot_image_grid", "plot_training_curves", "text_table"]
