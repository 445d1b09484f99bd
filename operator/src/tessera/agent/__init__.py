"""The node agent:

publishes a node's GPUs as devices, cuts slices when the kubelet asks, and reports what there is.
"""
