"""Names the scores of rows, the most important one of a task first; apart from the tables, whose libraries take long to load."""

SCORES = (("ap_box", "box AP"), ("ap_mask", "mask AP"), ("top1", "top-1"), ("miou", "mIoU"))
TITLES = dict(SCORES)
