"""Trains models: the loop, its settings, learning rates, weight averages and the calibration of gates."""
