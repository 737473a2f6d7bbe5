"""What the families with a UNet share."""
