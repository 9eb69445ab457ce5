"""Pictures that explain: drawn by plans that say what lies where, in Pillow's own font."""
