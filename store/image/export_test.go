package image

// Hook is asked before each change of the disk.
type Hook = func(op, path string) error

// ErrSkip, from a hook, leaves a change out.
var ErrSkip = errSkip

// OpenHook is Open with a hook.
func OpenHook(dir string, h Hook) (*Image, error) { return open(dir, h) }

// SetBootID has the image believe that the kernel calls this boot so.
func (im *Image) SetBootID(id string) { im.bootID = func() string { return id } }

// HasContent says whether the bytes are the blob's.
var HasContent = hasContent

// ContentBuffer makes a buffer for HasContent.
func ContentBuffer() []byte { return make([]byte, contentBuffer) }
