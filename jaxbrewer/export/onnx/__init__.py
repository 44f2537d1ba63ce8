"""ONNX: the graph of a program over the package onnx, run by onnxruntime."""
