"""Where named datasets live on disk and how they are split: one small file or folder per dataset."""
