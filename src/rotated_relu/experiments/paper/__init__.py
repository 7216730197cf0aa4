"""The paper's own counts and figures."""
