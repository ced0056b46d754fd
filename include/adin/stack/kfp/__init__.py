"""Local KFP: the v2beta1 REST API of Kubeflow Pipelines in front of kfp's own local runner.

It is not Kubeflow: there is no cluster, no container and no user but one. What it shares with it is the API, the
compiled pipelines and the states, so that a real Kubeflow Pipelines takes its place by a change of connection.

``server`` listens, ``api`` speaks HTTP, ``runs`` and ``schedule`` do the work, ``store`` remembers it; ``run`` is the
process of one run, ``tracking`` its eyes inside kfp.
"""
