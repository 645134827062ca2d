"""ControlNets and T2I-Adapters: pictures that say where things are."""
