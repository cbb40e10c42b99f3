package image

// Hook is asked before each change of the disk.
type Hook = func(op, path string) error

// ErrSkip, from a hook, leaves a change out.
var ErrSkip = errSkip

// OpenHook is Open with a hook.
func OpenHook(dir string, h Hook) (*Image, error) { return open(dir, h) }

// ReprintRecord parses a boot record and prints it again.
func ReprintRecord(b []byte) ([]byte, error) {
	r, err := parseRecord(b)
	if err != nil {
		return nil, err
	}
	return r.encode(), nil
}

// PrintRecord prints a boot record.
func PrintRecord(generation uint64, live, previous, more string) []byte {
	return record{generation, live, previous, more}.encode()
}

// HasContent says whether the bytes are the blob's.
var HasContent = hasContent

// ContentBuffer makes a buffer for HasContent.
func ContentBuffer() []byte { return make([]byte, contentBuffer) }
