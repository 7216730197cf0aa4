"""Images: from a name or a folder to splits of tensors."""
