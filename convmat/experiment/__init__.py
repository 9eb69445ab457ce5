"""The paper's experiment (Section 5): a CNN and the FC network it equals, trained side by side."""
