"""Root file systems that come as files: archives read, unpacked safely and kept, checked before a boot."""
