"""What tells a healthy run while it trains: signals beside the losses, none of which changes the training."""
