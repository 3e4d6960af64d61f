"""Networks for other programs: ONNX, single safetensors files, spandrel."""
