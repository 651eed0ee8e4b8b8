"""Backends run a loaded graph on a device. They know tensors, not faces: no pictures, boxes or HTTP here."""
