"""How good detections are: COCO's figures, a confusion matrix, what went wrong, calibration, and pictures of it all."""
