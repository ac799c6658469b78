"""Detection and instance segmentation through Detectron2, the only folder that imports it (lazily)."""
