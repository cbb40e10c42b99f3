package crash

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Fault is what happens to a process in place of one of its changes of the disk. Changes are counted from 1 over all threads, in the
// order in which they happen: to make, write, rename, link, truncate, sync or remove a file or a directory, and to set its mode.
type Fault struct {
	At    int        // 0 for no fault
	Errno unix.Errno // what the system call gives; 0: the process is killed
}

// Outcome says how a process ended.
type Outcome struct {
	Changes []string // the system calls that would change the disk, by name; the last one may be a fault that killed it
	Reached bool     // the fault happened
	Status  syscall.WaitStatus
}

// changes are the system calls that change the disk. Of openat only that with O_CREAT or O_TRUNC counts, of ioctl only FICLONE.
var changes = map[uint64]string{
	unix.SYS_CHMOD: "chmod", unix.SYS_COPY_FILE_RANGE: "copy_file_range", unix.SYS_CREAT: "creat", unix.SYS_FALLOCATE: "fallocate",
	unix.SYS_FCHMOD: "fchmod", unix.SYS_FCHMODAT: "fchmodat", unix.SYS_FCHMODAT2: "fchmodat2", unix.SYS_FDATASYNC: "fdatasync",
	unix.SYS_FSYNC: "fsync", unix.SYS_FTRUNCATE: "ftruncate", unix.SYS_IOCTL: "ioctl FICLONE", unix.SYS_LINK: "link", unix.SYS_LINKAT: "linkat",
	unix.SYS_MKDIR: "mkdir", unix.SYS_MKDIRAT: "mkdirat", unix.SYS_OPEN: "open", unix.SYS_OPENAT: "openat", unix.SYS_PWRITE64: "pwrite64",
	unix.SYS_PWRITEV: "pwritev", unix.SYS_RENAME: "rename", unix.SYS_RENAMEAT: "renameat", unix.SYS_RENAMEAT2: "renameat2",
	unix.SYS_RMDIR: "rmdir", unix.SYS_SENDFILE: "sendfile", unix.SYS_SPLICE: "splice", unix.SYS_SYMLINK: "symlink",
	unix.SYS_SYMLINKAT: "symlinkat", unix.SYS_SYNCFS: "syncfs", unix.SYS_SYNC_FILE_RANGE: "sync_file_range", unix.SYS_TRUNCATE: "truncate",
	unix.SYS_UNLINK: "unlink", unix.SYS_UNLINKAT: "unlinkat", unix.SYS_WRITE: "write", unix.SYS_WRITEV: "writev",
}

// byDescriptor are those of them that get an open file, and in which argument. On anything but a file or a directory they do not count: the Go
// runtime wakes itself by a write, and does not survive that this fails.
var byDescriptor = map[string]int{
	"copy_file_range": 2, "fallocate": 0, "fchmod": 0, "fdatasync": 0, "fsync": 0, "ftruncate": 0, "ioctl FICLONE": 0, "pwrite64": 0, "pwritev": 0,
	"sendfile": 0, "splice": 2, "syncfs": 0, "sync_file_range": 0, "write": 0, "writev": 0,
}

// Run runs a program with its standard output and error in the file out, and makes the fault happen. Argv[0] is the path of the program.
func Run(argv []string, dir string, out *os.File, f Fault) (Outcome, error) {
	t := &tracer{fault: f}
	done := make(chan error)
	go func() { done <- t.run(argv, dir, out) }()
	if err := <-done; err != nil {
		return t.Outcome, fmt.Errorf("running %s with a fault: %w", strings.Join(argv, " "), err)
	}
	return t.Outcome, nil
}

type tracer struct {
	Outcome
	fault Fault
	pid   int
}

// run belongs to a thread that has a filter of system calls. The thread is not used for anything else, and ends with the goroutine.
func (t *tracer) run(argv []string, dir string, out *os.File) error {
	runtime.LockOSThread()
	null, err := os.Open(os.DevNull)
	if err != nil {
		return err
	}
	defer null.Close()
	if err := setFilter(); err != nil {
		return fmt.Errorf("setting a filter of system calls: %w", err)
	}
	t.pid, err = syscall.ForkExec(argv[0], argv, &syscall.ProcAttr{
		Dir: dir, Env: os.Environ(), Files: []uintptr{null.Fd(), out.Fd(), out.Fd()}, Sys: &syscall.SysProcAttr{Ptrace: true, Setpgid: true},
	})
	if err != nil {
		return err
	}
	err = t.follow()
	if err != nil {
		unix.Kill(-t.pid, unix.SIGKILL)
	}
	return err
}

// follow goes from one stop of a thread to the next, until the process has ended.
func (t *tracer) follow() error {
	began := false
	known := make(map[int]bool)
	for {
		var status unix.WaitStatus
		tid, err := unix.Wait4(-t.pid, &status, unix.WALL, nil) // its process group, in which nobody else is
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return fmt.Errorf("waiting: %w", err)
		}
		if status.Exited() || status.Signaled() {
			if tid == t.pid {
				t.Status = syscall.WaitStatus(status)
				return nil
			}
			continue
		}
		signal := int(status.StopSignal())
		switch {
		case !began: // the program is there, and has done nothing
			began = true
			const options = unix.PTRACE_O_TRACESECCOMP | unix.PTRACE_O_TRACECLONE | unix.PTRACE_O_TRACEFORK | unix.PTRACE_O_TRACEVFORK |
				unix.PTRACE_O_TRACEEXEC | unix.PTRACE_O_EXITKILL
			if err := unix.PtraceSetOptions(tid, options); err != nil {
				return fmt.Errorf("setting options: %w", err)
			}
			signal = 0
		case status.TrapCause() == unix.PTRACE_EVENT_SECCOMP:
			if err := t.stopped(tid); err != nil && !errors.Is(err, unix.ESRCH) {
				return err
			}
			signal = 0
		case status.TrapCause() > 0, signal == int(unix.SIGSTOP) && !known[tid]: // a new thread begins with a stop
			signal = 0
		}
		known[tid] = true
		if err := unix.PtraceCont(tid, signal); err != nil && err != unix.ESRCH { // it may have been killed
			return fmt.Errorf("going on: %w", err)
		}
	}
}

// stopped looks at a system call that is about to begin.
func (t *tracer) stopped(tid int) error {
	var regs unix.PtraceRegs
	if err := unix.PtraceGetRegs(tid, &regs); err != nil {
		return err
	}
	name := changes[regs.Orig_rax]
	if i, ok := byDescriptor[name]; ok {
		fd := []uint64{regs.Rdi, regs.Rsi, regs.Rdx}[i]
		if path, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", tid, int32(fd))); err != nil || !filepath.IsAbs(path) || strings.HasPrefix(path, "/dev/null") {
			return nil
		}
	}
	t.Changes = append(t.Changes, name)
	if len(t.Changes) != t.fault.At {
		return nil
	}
	t.Reached = true
	if t.fault.Errno == 0 {
		return unix.Kill(-t.pid, unix.SIGKILL) // and what it has started
	}
	regs.Orig_rax, regs.Rax = ^uint64(0), uint64(-int64(t.fault.Errno)) // no system call, and what it gives
	return unix.PtraceSetRegs(tid, &regs)
}

// setFilter has this thread, and all that come of it, stop before each of the changes.
func setFilter() error {
	const (
		number, arch = 0, 4 // where these are in what a filter sees
		args         = 16
		x86_64       = 0xc000003e
		trace, allow = unix.SECCOMP_RET_TRACE, unix.SECCOMP_RET_ALLOW
	)
	load := func(at uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: at}
	}
	ret := func(what uint32) unix.SockFilter { return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: what} }
	// unless skips that many instructions when the condition does not hold.
	unless := func(condition uint16, k uint32, skip uint8) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_K | condition, K: k, Jf: skip}
	}
	program := []unix.SockFilter{load(arch), {Code: unix.BPF_JMP | unix.BPF_K | unix.BPF_JEQ, K: x86_64, Jt: 1}, ret(allow), load(number)}
	for n := range changes {
		switch n {
		case unix.SYS_OPEN, unix.SYS_OPENAT:
			flags := uint32(args + 8)
			if n == unix.SYS_OPENAT {
				flags = args + 16
			}
			program = append(program, unless(unix.BPF_JEQ, uint32(n), 4), load(flags), unless(unix.BPF_JSET, unix.O_CREAT|unix.O_TRUNC, 1), ret(trace), ret(allow))
		case unix.SYS_IOCTL:
			program = append(program, unless(unix.BPF_JEQ, uint32(n), 4), load(args+8), unless(unix.BPF_JEQ, unix.FICLONE, 1), ret(trace), ret(allow))
		default:
			program = append(program, unless(unix.BPF_JEQ, uint32(n), 1), ret(trace))
		}
	}
	program = append(program, ret(allow))
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	f := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	if _, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&f))); errno != 0 {
		return errno
	}
	return nil
}
