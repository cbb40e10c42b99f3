// Package image keeps an image directory: complete trees beside each other, and one name for the tree in force.
//
//	IMAGE/boot.0, IMAGE/boot.1          the boot record: what is live, what was before, what is on trial; see package boot
//	IMAGE/current -> deploy/<id>        derived from the boot record, for whoever uses the tree
//	IMAGE/deploy/<id>/                  a deployment: one complete tree, with nothing of satchel's inside
//	IMAGE/deploy/<id>.toml              what that tree is
//	IMAGE/deploy/<id>.tmp/              a clone that is being built; never used, removed by the next Open
//	IMAGE/health.d/                     a person's health checks
//	IMAGE/loader.toml                   written by a person when systemd-boot starts the machine
//
// A deployment is built beside the live one and becomes live in one step:
//
//	Stage:     blobs ──link──► deploy/<id>.tmp ──syncfs──► rename to deploy/<id> ──fsync──► staged
//	Activate:  new record to a temporary file ──fsync──► rename over the older slot ──fsync──► current by rename
//
// A system takes effect at the next boot, and is confirmed from inside; what is live stays live until then:
//
//	Arm:       record with the trial ──► boot-select takes a try ──► Health ──► Confirm, or Fail: the next boot is as before
//
// # Words
//
// A deployment's id is readable: product, epoch, seq and the last eight characters of the manifest's CID, as in
// lessons.maths-1-42-x7k2mzqa. The live deployment is the one that the boot record names; the previous one was live before
// it and is kept for [Image.Rollback]. A clone is a deployment that is not finished.
//
// # What is promised
//
// At every moment, also after a power cut, the boot record names the old deployment or the new one, and that one is
// complete. The rename of a slot of the record is the commit point; the symbolic link current follows it, and [Open] puts it
// right. An error in [Image.Stage] removes the clone and leaves everything else as it was, and so does the end of its context.
// A second [Open] changes nothing.
//
// A deployment is never changed once it has its name; only [Image.Repair] replaces entries that are not what the manifest says.
// Files get exactly the mode of their entry whatever the umask is, and read-only directories work for ordinary users too.
// The times and owners of files are not part of a release.
//
// # Files share their content with the store
//
// Where the file system can share blocks (FICLONE, on XFS and btrfs), each file is its own. Elsewhere files are hard
// links to the blobs of the store: writing into a file of a live tree, instead of replacing it, damages the store's blob and
// every other deployment that has it. [Image.Verify] finds that; the store's own verification takes the blob away to be
// fetched again, and [Image.Repair] puts a good file into the tree. Files that cannot be linked are copied: empty ones, those
// with too many links already, those on another file system, and those that the system forbids to link.
//
// # What is trusted
//
// A manifest and the blobs were verified before they come here, but paths are checked again at the point of use: every
// operation below the image names one component in an open directory, never a path, creates with O_EXCL and opens with
// O_NOFOLLOW, so that no symbolic link is ever followed, be it part of a release or laid out by somebody else. This is stricter
// than os.Root, which follows links that stay inside. Only the path of the image directory itself and the paths that [Blobs]
// gives are used as they come. Names found on the disk are used only when they are ids. Nothing of ours
// lies inside a tree, so no name in a release can get in our way.
//
// An image directory may hold other files. They are left alone, unless they have one of the names above and the wrong type:
// then Open refuses and says what to move away.
//
// # What is not done here
//
// Whether a release may be installed is decided elsewhere, [manifest.Manifest.Check] included, and so is when to activate it. This package says nothing about
// free space before it is used up. It needs a file system with hard links or none at all, symbolic links, and atomic rename.
package image
