package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/ipfs/go-cid"
	"golang.org/x/sys/unix"

	"satchel/store"
	"satchel/store/manifest"
)

// What is known about sharing blocks between the store and an image.
const (
	sharingUnknown = iota
	sharingWorks
	sharingFails
)

// finder says where a file to link to is.
type finder interface {
	find(e *manifest.Entry) (path string, err error)
}

// placer makes files from blobs. It is for one goroutine.
type placer struct {
	im    *Image
	blobs Blobs
	files finder
	apart func(path string) bool // files that share nothing that a write in place could damage: no hard links; nil: none

	proved map[cid.Cid]struct{} // blobs that a deployment has already, whose files were read from the medium when it was staged
	doubt  []*manifest.Entry    // files that must be read again: their blob is not among those, or its file shows a write
}

// place makes name in d a file with the content and mode of the entry, in the way that costs least: blocks shared with
// the blob, a hard link to it, or a copy. It notes when the file must be read again.
func (p *placer) place(ctx context.Context, d *dir, name string, e *manifest.Entry) error {
	if e.Size == 0 { // a link would save nothing, and one empty blob would soon have too many
		return fill(d, name, e, nil)
	}
	if p.im.sharing.Load() != sharingFails {
		if done, err := p.share(d, name, e); done || err != nil {
			return err
		}
	}
	if p.apart != nil && p.apart(e.Path) {
		return p.copy(ctx, d, name, e)
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
		return p.damaged(e, st.Size)
	}
	if st.Mode&0o7777 == e.Mode {
		p.note(e, st.Mtim)
		return nil
	}
	if err := d.unlink(name); err != nil {
		return err
	}
	return p.copy(ctx, d, name, e)
}

// note remembers a file that must be read again, given the modification time of the blob's file.
func (p *placer) note(e *manifest.Entry, mtime unix.Timespec) {
	if _, ok := p.proved[e.Blob]; !ok || !isFixed(mtime) {
		p.doubt = append(p.doubt, e)
	}
}

// isFixed says whether nobody wrote to a file since it was made from a verified blob.
func isFixed(mtime unix.Timespec) bool { return mtime == unix.Timespec{Sec: store.FixedTime} }

// damaged is the error for a blob whose file has another size.
func (p *placer) damaged(e *manifest.Entry, size int64) error {
	return discard(p.blobs, e, fmt.Sprintf("has %d bytes instead of %d", size, e.Size))
}

// discard takes a damaged blob away, so that nobody uses it and it can be fetched again.
func discard(b Blobs, e *manifest.Entry, what string) error {
	err := fmt.Errorf("%s: blob %v is damaged, it %s; it must be fetched again: %w", e.Path, e.Blob, what, store.ErrMismatch)
	return errors.Join(err, b.Discard(e.Blob))
}

// share tries FICLONE. The first file of an image tells whether it is worth trying again.
func (p *placer) share(d *dir, name string, e *manifest.Entry) (done bool, err error) {
	var from unix.Stat_t
	err = p.fromBlob(e, func(src *os.File) error {
		if err := unix.Fstat(int(src.Fd()), &from); err != nil {
			return err
		}
		return fill(d, name, e, func(dst *os.File) error {
			return d.change("cloning", name, func() error { return clone(dst, src) })
		})
	})
	if err == nil {
		p.im.sharing.Store(sharingWorks)
		p.note(e, from.Mtim)
		return true, nil
	}
	if !isOneOf(err, unix.EOPNOTSUPP, unix.ENOTTY, unix.EINVAL, unix.EXDEV, unix.ENOSYS, unix.EPERM, unix.ETXTBSY) {
		return false, err
	}
	p.im.sharing.CompareAndSwap(sharingUnknown, sharingFails)
	return false, nil
}

func always(string) bool { return true }

// copyPiece is how much is copied between two looks at the context.
const copyPiece = 16 << 20

func (p *placer) copy(ctx context.Context, d *dir, name string, e *manifest.Entry) error {
	p.doubt = append(p.doubt, e)
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
		return p.damaged(e, size)
	}
	return use(src)
}

// fill makes a new file, lets content write to it, and then sets its mode and the fixed time: writing would take the setuid bit away.
// On an error nothing is left.
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
	if err == nil {
		err = d.fixTime(name)
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
