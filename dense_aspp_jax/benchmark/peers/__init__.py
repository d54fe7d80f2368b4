"""The same networks and steps in PyTorch, onnxruntime and OpenVINO, measured beside ours."""
