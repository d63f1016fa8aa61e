"""Source and sink over the documented tree, as a bundle file or as a plain directory."""
