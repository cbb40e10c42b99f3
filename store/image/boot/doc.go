// Package boot is the boot record of an image: a file of a few lines that says which tree is in force, which one is on
// trial, and how often it may still be tried. FORMAT.md beside this file describes it.
//
// Whatever starts a machine calls [Select], from an initramfs or a boot script, and uses the tree that it says. A new system is
// armed as a trial, entered at most so many times, and confirmed from inside, or else the old one is used again:
//
//	            Arm                    Select: tries-1, durable          Confirm
//	live ──────────────► live + trial ──────────────────────► in trial ─────────► the trial is live
//	                          ▲                                 │    │
//	                          └───── tries left, power cut ─────┘    │ Fail, or Select with no tries left
//	                                                                 ▼
//	                                                         live, and the trial is remembered as failed
//
// The [Record] and its steps are pure: values in, values out. [Read] and [Write] put it on a [Disk], in two slots. Package image
// builds on this; nothing here imports anything of ours, so that the program for an initramfs stays small.
package boot
