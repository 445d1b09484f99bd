"""Masked language models contradict themselves; this workload measures by how much, and against the truth.

A masked model answers "which word stands here?" for any set of hidden words, and nothing in its training
makes the answers fit into one joint distribution. Young and You ("On the Inconsistencies of Conditionals
Learned by Masked Language Models", arXiv 2301.00068) measure it on pairs of words and propose to ask a model
several such questions and to take the surest answer (ensemble of conditionals, EOC). Their texts have no
known truth. Ours is a language whose joint distribution is known (`data`), so that an inconsistency can be
read beside the error that it comes with, and an exact table of the same language must score zero. Two forms
are trained: an encoder that fills masked places (BERT's kind) and an encoder-decoder that writes spans out
(T5's). Written from the formulas alone.
"""
