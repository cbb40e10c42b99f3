package image

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/ipfs/go-cid"
	"github.com/pelletier/go-toml/v2"
	"golang.org/x/sys/unix"

	"satchel/store"
	"satchel/store/image/boot"
	"satchel/store/manifest"
)

// Release says which release a deployment is.
type Release struct {
	Product  string
	Epoch    uint64
	Seq      uint64
	Version  string  // for people
	Manifest cid.Cid // of the manifest; undefined when the file beside the tree was lost
}

// Deployment is one complete tree of an image.
type Deployment struct {
	ID      string // its directory's name below deploy
	Release Release
	Created time.Time // when it was staged, by this machine's clock, in whole seconds UTC; zero when unknown

	number int64 // counts deployments in the order of staging, since clocks cannot be trusted for that
}

// shortLen is how many characters of the manifest's CID an id ends with.
const shortLen = 8

// short is the part of a CID that tells releases apart; its beginning is the same for all.
func short(c cid.Cid) string {
	s := c.String()
	return s[max(0, len(s)-shortLen):]
}

// ID is the name of a release's deployment: <product>-<epoch>-<seq>-<last 8 characters of the manifest's CID>.
func (r Release) ID() string {
	return fmt.Sprintf("%s-%d-%d-%s", r.Product, r.Epoch, r.Seq, short(r.Manifest))
}

// check refuses a release that has no proper id.
func (r Release) check() error {
	if err := manifest.CheckHeader(&manifest.Header{Product: r.Product, Version: r.Version}); err != nil {
		return err
	}
	if _, err := store.ParseCID(r.Manifest.Bytes()); err != nil {
		return fmt.Errorf("manifest: %w", err)
	}
	_, err := parseID(r.ID())
	return err
}

// parseID takes an id apart. Version and manifest are not in it.
func parseID(id string) (Release, error) {
	parts := strings.Split(id, "-")
	n := len(parts)
	if n < 4 || len(parts[n-1]) != shortLen || strings.Trim(parts[n-1], "abcdefghijklmnopqrstuvwxyz234567") != "" {
		return Release{}, fmt.Errorf("%q is not the id of a deployment", id)
	}
	epoch, ok1 := boot.ParseNumber(parts[n-3])
	seq, ok2 := boot.ParseNumber(parts[n-2])
	r := Release{Product: strings.Join(parts[:n-3], "-"), Epoch: epoch, Seq: seq}
	if !ok1 || !ok2 || manifest.CheckHeader(&manifest.Header{Product: r.Product}) != nil {
		return Release{}, fmt.Errorf("%q is not the id of a deployment", id)
	}
	return r, nil
}

// info is the file beside a tree.
type info struct {
	Version  string    `toml:"version"`
	Manifest string    `toml:"manifest"`
	Created  time.Time `toml:"created"`
	Number   int64     `toml:"number"`
}

const (
	infoSuffix = ".toml"
	maxInfo    = 4096 // bytes
)

// writeInfo writes the file beside a tree, in place: it counts only once the tree has its name.
func (im *Image) writeInfo(d Deployment) (err error) {
	text, err := toml.Marshal(info{Version: d.Release.Version, Manifest: d.Release.Manifest.String(), Created: d.Created, Number: d.number})
	if err != nil {
		return fmt.Errorf("writing what %s is: %w", d.ID, err)
	}
	name := d.ID + infoSuffix
	if err := im.deploy.unlink(name); err != nil {
		return err
	}
	return im.deploy.writeFile(name, text, 0o644)
}

// writeFile makes a new file, durable but for its name.
func (d *dir) writeFile(name string, text []byte, mode uint32) error {
	f, err := d.create(name)
	if err != nil {
		return err
	}
	err = d.change("writing", name, func() error { _, err := f.Write(text); return err })
	if err == nil {
		err = d.change("setting mode of", name, func() error { return setMode(f, mode) })
	}
	if err == nil {
		err = d.change("syncing", name, f.Sync)
	}
	return errors.Join(err, f.Close())
}

// readFile reads a small file.
func (d *dir) readFile(name string, limit int64) ([]byte, error) {
	f, err := d.open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(text)) > limit {
		err = &fs.PathError{Op: "reading", Path: d.at(name), Err: fmt.Errorf("more than %d bytes", limit)}
	}
	return text, err
}

// load says what a deployment is: all of it when the file beside the tree is sound, otherwise what the id says.
func (im *Image) load(id string) (d Deployment, sound bool) {
	r, err := parseID(id)
	if err != nil {
		return d, false
	}
	d = Deployment{ID: id, Release: r}
	text, err := im.deploy.readFile(id+infoSuffix, maxInfo)
	if err != nil {
		return d, false
	}
	var i info
	if toml.Unmarshal(text, &i) != nil {
		return d, false
	}
	r.Version = i.Version
	if r.Manifest, err = cid.Decode(i.Manifest); err != nil || r.check() != nil || r.ID() != id {
		return d, false
	}
	return Deployment{ID: id, Release: r, Created: i.Created.UTC().Truncate(time.Second), number: i.Number}, true
}

// has says whether a deployment is there.
func (im *Image) has(id string) (bool, error) {
	if _, err := parseID(id); err != nil {
		return false, err
	}
	kind, err := im.deploy.kind(id)
	return kind == unix.S_IFDIR, err
}

// need is an error with [ErrNotFound] when a deployment is not there.
func (im *Image) need(id string) error {
	ok, err := im.has(id)
	if err == nil && !ok {
		return fmt.Errorf("%q: %w", id, ErrNotFound)
	}
	return err
}

// Live is the deployment in force. It is false when nothing was activated yet.
func (im *Image) Live() (Deployment, bool) { return im.named(im.record().Live) }

// Previous is the deployment that [Image.Rollback] goes back to. It is false when there is none.
func (im *Image) Previous() (Deployment, bool) { return im.named(im.record().Previous) }

func (im *Image) named(id string) (Deployment, bool) {
	if id == "" {
		return Deployment{}, false
	}
	d, _ := im.load(id)
	return d, true
}

// List gives all deployments, in the order in which they were staged.
func (im *Image) List() ([]Deployment, error) {
	names, err := im.deployNames()
	if err != nil {
		return nil, fmt.Errorf("listing deployments: %w", err)
	}
	var list []Deployment
	for _, name := range names {
		if ok, err := im.has(name); err == nil && ok {
			d, _ := im.load(name)
			list = append(list, d)
		}
	}
	slices.SortFunc(list, func(a, b Deployment) int {
		return cmp.Or(cmp.Compare(a.number, b.number), cmp.Compare(a.ID, b.ID))
	})
	return list, nil
}

// deployNames lists the deploy directory with a descriptor of its own, since one has but one position.
func (im *Image) deployNames() ([]string, error) {
	d, err := im.root.sub(deployName)
	if err != nil {
		return nil, err
	}
	defer d.close()
	return d.names(-1)
}

// Tree is the path of a deployment's tree, or empty when id is not an id.
func (im *Image) Tree(id string) string {
	if _, err := parseID(id); err != nil {
		return ""
	}
	return filepath.Join(im.dir, deployName, id)
}

var _ Blobs = (*store.Store)(nil)

// Blobs is where the content of files comes from; [store.Store] is one. Its methods may be called by two goroutines at once.
type Blobs interface {
	// BlobFile gives the path of a file with the blob's content and exactly this mode, on which a hard link can be made.
	BlobFile(c cid.Cid, mode uint32) (path string, err error)
	// OpenBlob opens the blob for reading and gives its size in bytes. The caller closes it.
	OpenBlob(c cid.Cid) (*os.File, int64, error)
}
