"""Extensions put into the data folder with what they need beside Easel's own packages; the command line alone does it.

pip resolves and builds; nothing here decides a version. The web process never imports this package.
"""
