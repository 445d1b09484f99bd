"""Super-fine-tuning: a backdoor in a digit classifier is removed by a wave of high learning rates.

Idea (Sha et al., "Fine-Tuning Is All You Need to Mitigate Backdoor Attacks", arXiv 2212.09067): fine-tune the
whole network on clean data while the learning rate goes up and down in triangles, first up to a large value
that forgets the trigger, then up to a small one that recovers the accuracy. How large is large differs by a
factor of 25 between published settings and from network to network, so here it is searched, with neither the
test set nor the trigger. Beside the cure stand what it must be read against: plain fine-tuning, a fifth of
the clean data, and training from scratch on the same data. Written from the formulas alone.
"""
