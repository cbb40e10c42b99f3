// Package crash shows what is on a disk after a power cut, for tests.
//
//	workload ──► file system ──► loop device ──► file of a FUSE server ──► Log: writes, flushes, marks
//	                                                                          │ States
//	   check ◄── file system ◄── loop device ◄── file with some of the writes ◄┘
//
// # Words
//
// A Log has every write that a file system made, in order. A flush is the moment at which all before it is on the medium. A mark is what
// the workload says about itself: "step n is done, and I have told somebody". A state is a disk as a power cut can leave
// it: all writes before a flush, and of those after it some, none, or the beginning.
//
// # How to use it
//
// [Record] runs a workload on a new file system and gives the log. [Log.States] chooses states, always the same ones for one seed. A
// [Machine] puts one after the other on a disk and mounts it. What is right then is for the caller to say. The caller
// should do that, and the workload, in processes of their own: the process that serves the disk must not wait for it.
//
// # What is not shown
//
// A disk that lies about its flushes, or that damages what it has. Of a large write that was cut short there are whole blocks of 4096
// bytes. Where a disk tears smaller pieces, ext4 and btrfs lose their superblock and do not mount: what is on them cannot help that.
//
// It needs root, FUSE, loop devices, and the program that makes the file system; [FileSystem.Missing] says what is not here.
// Mounts are made in the mount namespace of the process. A process with one of its own leaves nothing behind, however it ends.
package crash
