"""What pruning takes beside the utility and the threshold: the choice of neurons, surgery, other criteria."""
