"""pixaff: from image-level labels to pixel masks (CAM, dense CRF, AffinityNet, random walk)."""

__version__ = "0.1.0"
