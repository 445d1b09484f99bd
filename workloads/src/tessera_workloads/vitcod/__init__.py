"""ViTCoD: a vision transformer whose attention is pruned to a tenth, and then really costs less.

Idea (You et al., "ViTCoD: Vision Transformer Acceleration via Dedicated Algorithm and Accelerator Co-Design",
arXiv 2210.09573): queries and keys of all heads are squeezed through an auto-encoder over heads, the average
attention map of the training set fixes which keys a query needs, and the columns that all queries need
("global tokens") are set apart from a sparse rest. The published code computes all of it densely and fills
with minus infinity, so that nothing is saved outside of its cycle simulator. Here the pruned part is never
computed: see `cores`. Written from the formulas alone.
"""
