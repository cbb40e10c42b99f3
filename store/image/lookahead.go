package image

import (
	"context"

	"satchel/store/manifest"
)

// lookahead asks for the blobs' files some entries before they are needed, while others are linked: to find a file
// in the store takes about half as long as to make a link to it. It starts with the first file that is asked for.
type lookahead struct {
	ctx     context.Context // of the staging it is for
	blobs   Blobs
	entries []*manifest.Entry

	found chan foundFile
}

type foundFile struct {
	entry *manifest.Entry
	path  string
	err   error
}

// lookaheadFiles is how many answers may wait to be used.
const lookaheadFiles = 128

// find gives the file of an entry. Entries must be asked for in order, but not all.
func (l *lookahead) find(e *manifest.Entry) (string, error) {
	if l.found == nil {
		l.found = make(chan foundFile, lookaheadFiles)
		go l.run(e)
	}
	for f := range l.found {
		if f.entry == e {
			return f.path, f.err
		}
	}
	if err := l.ctx.Err(); err != nil {
		return "", err
	}
	return l.blobs.BlobFile(e.Blob, e.Mode)
}

// run finds the files of an entry and of those after it, until all are found or the context ends.
func (l *lookahead) run(first *manifest.Entry) {
	defer close(l.found)
	started := false
	for _, e := range l.entries {
		started = started || e == first
		if !started || e.Type != manifest.File || e.Size == 0 {
			continue
		}
		f := foundFile{entry: e}
		f.path, f.err = l.blobs.BlobFile(e.Blob, e.Mode)
		select {
		case l.found <- f:
		case <-l.ctx.Done():
			return
		}
	}
}

// wait returns when run has; the context must have ended.
func (l *lookahead) wait() {
	if l.found == nil {
		return
	}
	for range l.found {
	}
}
