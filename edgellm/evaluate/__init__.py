"""How well a model predicts text: quality figures, independent of speed."""
