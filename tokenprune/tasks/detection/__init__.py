"""Holds detection and instance segmentation through Detectron2. This is the only folder that imports it (lazily)."""
