"""Pictures: the computation graph of a tensor as SVG (graph.py), tensors and modules in notebooks as HTML (html.py)."""
