"""CapFilt (BLIP, section 3.3): caption web pictures, filter web and synthetic texts, write a better data
set.
"""
