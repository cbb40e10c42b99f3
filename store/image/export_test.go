package image

import "satchel/store/image/boot"

// Hook is asked before each change of the disk.
type Hook = func(op, path string) error

// ErrSkip, from a hook, leaves a change out.
var ErrSkip = errSkip

// OpenHook is Open with a hook.
func OpenHook(dir string, h Hook) (*Image, error) { return open(dir, h) }

// SetBootID has the image believe that the kernel calls this boot so.
func (im *Image) SetBootID(id string) { im.bootID = func() string { return id } }

// Select does what a boot does, which the kernel calls by this name, and gives what it uses.
func (im *Image) Select(bootID string) (use string, err error) {
	err = im.step("booting", func(r boot.Record) (next boot.Record, _ error) {
		next, use = r.Select(func(id string) bool { there, _ := im.has(id); return there }, bootID)
		return next, nil
	})
	return use, err
}

// HasContent says whether the bytes are the blob's.
var HasContent = hasContent

// ContentBuffer makes a buffer for HasContent.
func ContentBuffer() []byte { return make([]byte, contentBuffer) }

// Enter does to the record what a boot does.
func (im *Image) Enter() error {
	return im.step("booting", func(r boot.Record) (boot.Record, error) {
		next, _ := r.Select(func(string) bool { return true }, im.bootID())
		return next, nil
	})
}
