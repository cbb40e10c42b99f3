package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"satchel/store/manifest"
)

// What is known about sharing blocks between the store and an image.
const (
	sharingUnknown = iota
	sharingWorks
	sharingFails
)

// placer makes files from blobs.
type placer struct {
	im    *Image
	blobs Blobs
	files interface { // where files to link come from
		find(e *manifest.Entry) (path string, err error)
	}
}

// place makes name in d a file with the content and mode of the entry, in the way that costs least: blocks shared with
// the blob, a hard link to it, or a copy.
func (p *placer) place(ctx context.Context, d *dir, name string, e *manifest.Entry) error {
	if e.Size == 0 { // a link would save nothing, and one empty blob would soon have too many
		return fill(d, name, e, nil)
	}
	if p.im.sharing.Load() != sharingFails {
		if done, err := p.share(d, name, e); done || err != nil {
			return err
		}
	}
	file, err := p.files.find(e)
	if err != nil {
		return fmt.Errorf("%s: %w", e.Path, err)
	}
	err = d.link(file, name)
	if isOneOf(err, unix.EMLINK, unix.EXDEV, unix.EPERM, unix.EOPNOTSUPP, unix.ENOSYS) {
		return p.copy(ctx, d, name, e)
	}
	if err != nil {
		return err
	}
	return p.checkLink(ctx, d, name, e)
}

// checkLink looks whether a link has what the entry says. Somebody may have changed the blob's mode through another link.
func (p *placer) checkLink(ctx context.Context, d *dir, name string, e *manifest.Entry) error {
	st, err := d.lstat(name)
	if err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG || st.Size != int64(e.Size) {
		return damaged(e, st.Size)
	}
	if st.Mode&0o7777 == e.Mode {
		return nil
	}
	if err := d.unlink(name); err != nil {
		return err
	}
	return p.copy(ctx, d, name, e)
}

func damaged(e *manifest.Entry, size int64) error {
	return fmt.Errorf("%s: blob %v is damaged: it has %d bytes instead of %d; verify the store", e.Path, e.Blob, size, e.Size)
}

// share tries FICLONE. The first file of an image tells whether it is worth trying again.
func (p *placer) share(d *dir, name string, e *manifest.Entry) (done bool, err error) {
	err = p.fromBlob(e, func(src *os.File) error {
		return fill(d, name, e, func(dst *os.File) error {
			return d.change("cloning", name, func() error { return clone(dst, src) })
		})
	})
	if err == nil {
		p.im.sharing.Store(sharingWorks)
		return true, nil
	}
	if !isOneOf(err, unix.EOPNOTSUPP, unix.ENOTTY, unix.EINVAL, unix.EXDEV, unix.ENOSYS, unix.EPERM, unix.ETXTBSY) {
		return false, err
	}
	p.im.sharing.CompareAndSwap(sharingUnknown, sharingFails)
	return false, nil
}

// copyPiece is how much is copied between two looks at the context.
const copyPiece = 16 << 20

func (p *placer) copy(ctx context.Context, d *dir, name string, e *manifest.Entry) error {
	return p.fromBlob(e, func(src *os.File) error {
		return fill(d, name, e, func(dst *os.File) error {
			return d.change("copying", name, func() error { return copyAll(ctx, dst, src, int64(e.Size)) })
		})
	})
}

func copyAll(ctx context.Context, dst, src *os.File, size int64) error {
	for size > 0 {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := io.CopyN(dst, src, min(size, copyPiece))
		if err != nil {
			return err
		}
		size -= n
	}
	return nil
}

func (p *placer) fromBlob(e *manifest.Entry, use func(src *os.File) error) error {
	src, size, err := p.blobs.OpenBlob(e.Blob)
	if err != nil {
		return fmt.Errorf("%s: %w", e.Path, err)
	}
	defer src.Close()
	if size != int64(e.Size) {
		return damaged(e, size)
	}
	return use(src)
}

// fill makes a new file, lets content write to it, and then sets its mode: writing would take the setuid bit away. On an
// error nothing is left.
func fill(d *dir, name string, e *manifest.Entry, content func(dst *os.File) error) error {
	dst, err := d.create(name)
	if err != nil {
		return err
	}
	if content != nil {
		err = content(dst)
	}
	if err == nil {
		err = d.change("setting mode of", name, func() error { return setMode(dst, e.Mode) })
	}
	if cerr := dst.Close(); err == nil && cerr != nil {
		err = fmt.Errorf("closing %s: %w", d.at(name), cerr)
	}
	if err != nil {
		if uerr := d.unlink(name); uerr != nil {
			return fmt.Errorf("%w, after: %v", uerr, err) // err may be one that another way could cure
		}
	}
	return err
}

func isOneOf(err error, numbers ...unix.Errno) bool {
	for _, n := range numbers {
		if errors.Is(err, n) {
			return true
		}
	}
	return false
}
