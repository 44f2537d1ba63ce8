"""The total loss: everything between the two models' outputs and one scalar."""
