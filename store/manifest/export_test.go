package manifest

// Folder computes keys of names.
type Folder = folder

// Key is the key of a name.
func (f *folder) Key(name string) []byte { return f.key(name) }
