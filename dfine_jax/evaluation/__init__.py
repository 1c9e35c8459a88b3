"""How good detections are: COCO's figures, a confusion matrix, and pictures of both."""
