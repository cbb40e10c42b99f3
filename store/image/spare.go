package image

import (
	"errors"
	"strings"
)

// spareName is that of a directory for replacements in a tree that is a subvolume, to which nothing can be moved from outside. No
// release may have it.
const spareName = ".satchel-fix.tmp"

// withSpare gives do a directory from which files can be moved into a tree, and removes it afterwards.
func (im *Image) withSpare(tree string, do func(spare *dir) error) (err error) {
	in, name := im.deploy, strings.TrimSuffix(tree, tmpSuffix)+fixSuffix
	if im.isSubvolume(tree) {
		if in, err = im.deploy.sub(tree); err != nil {
			return err
		}
		defer in.close()
		name = spareName
	}
	if err := in.removeAll(name); err != nil {
		return err
	}
	spare, err := in.mkdir(name)
	if err != nil {
		return errors.Join(err, in.removeAll(name))
	}
	defer func() {
		spare.close()
		err = errors.Join(err, in.removeAll(name))
	}()
	return do(spare)
}

// removeSpare removes what an interrupted repair left in a tree.
func (im *Image) removeSpare(id string) error {
	if !im.isSubvolume(id) {
		return nil
	}
	in, err := im.deploy.sub(id)
	if err != nil {
		return err
	}
	defer in.close()
	return in.removeAll(spareName)
}
