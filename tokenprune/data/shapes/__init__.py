"""Makes the embedded pictures of shapes."""
