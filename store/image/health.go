package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Names and limits of health checks.
const (
	HealthName   = "health.d"       // directory of checks, in an image and in a tree
	HealthLimit  = 60 * time.Second // for each check, when nobody says otherwise
	healthOutput = 4096             // bytes of output that are kept, the last ones
	healthDrain  = time.Second      // for what is still in the pipe of a check that has ended
)

// HealthResult is how one check ended.
type HealthResult struct {
	Name    string        // of its file
	Path    string        // of its file
	OK      bool          // it ended with exit code 0 within the time
	Why     string        // why not, for people; empty when OK
	Output  string        // the last 4 KiB of what it wrote
	Took    time.Duration // by the monotonic clock
	Network bool          // it ran without a network namespace of its own, as this process may not make one
}

// Health runs the checks of a deployment, one after the other: the executable files of IMAGE/health.d, and those of TREE/health.d when own is
// true, each in the order of names. Each may take limit; 0 means [HealthLimit]. A check is healthy when it exits with 0. It has no
// network: its machine must be judged by itself, whoever is near. It finds SATCHEL_IMAGE, SATCHEL_TREE and SATCHEL_DEPLOYMENT in its environment, and all
// that it started is killed when it ends. Without checks there are no results. The error is about the directories, or the end of ctx, and comes with the
// results until then.
func (im *Image) Health(ctx context.Context, id string, own bool, limit time.Duration) ([]HealthResult, error) {
	if err := im.need(id); err != nil {
		return nil, fmt.Errorf("checking health: %w", err)
	}
	dirs := []string{filepath.Join(im.dir, HealthName)}
	if own {
		dirs = append(dirs, filepath.Join(im.Tree(id), HealthName))
	}
	return Health(ctx, dirs, []string{"SATCHEL_IMAGE=" + im.dir, "SATCHEL_TREE=" + im.Tree(id), "SATCHEL_DEPLOYMENT=" + id}, limit)
}

// Health is [Image.Health] for any directories, of which those that are not there have no checks; env is added to the environment.
func Health(ctx context.Context, dirs, env []string, limit time.Duration) ([]HealthResult, error) {
	if limit <= 0 {
		limit = HealthLimit
	}
	var results []HealthResult
	for _, dir := range dirs {
		files, err := os.ReadDir(dir) // sorted by name
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return results, fmt.Errorf("checking health: %w", err)
		}
		for _, f := range files {
			if strings.HasPrefix(f.Name(), ".") || strings.HasSuffix(f.Name(), "~") {
				continue
			}
			path := filepath.Join(dir, f.Name())
			fi, err := os.Stat(path)
			if err != nil || !fi.Mode().IsRegular() || fi.Mode()&0o111 == 0 {
				continue
			}
			r := HealthResult{Name: f.Name(), Path: path}
			if fi.Mode()&0o002 != 0 {
				r.Why = "anybody may write to it"
			} else {
				r.run(ctx, env, limit)
			}
			if err := ctx.Err(); err != nil {
				return results, fmt.Errorf("checking health: %w", err)
			}
			results = append(results, r)
		}
	}
	return results, nil
}

// run runs one check.
func (r *HealthResult) run(ctx context.Context, env []string, limit time.Duration) {
	start := time.Now()
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	out, in, err := os.Pipe()
	if err != nil {
		r.Why = err.Error()
		return
	}
	defer out.Close()
	cmd, err := r.start(env, in)
	in.Close()
	if err != nil {
		r.Why = err.Error()
		return
	}
	output := make(chan string, 1)
	go func() { output <- lastOf(out) }()

	// The group is killed while its leader is not yet reaped: its number cannot belong to somebody else.
	kill := func() { unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }
	killed := make(chan struct{})
	stop := context.AfterFunc(ctx, func() { kill(); close(killed) })
	waitEnd(cmd.Process.Pid)
	late := !stop()
	if late {
		<-killed
	}
	kill()
	err = cmd.Wait()
	out.SetReadDeadline(time.Now().Add(healthDrain)) // who left the group may hold the pipe
	r.Output, r.Took = <-output, time.Since(start)
	switch {
	case late:
		r.Why = fmt.Sprintf("not done after %v", limit)
	case err != nil:
		r.Why = err.Error()
	default:
		r.OK = true
	}
}

// start starts the check in a process group and a network namespace of its own, or without the latter when that cannot be had.
func (r *HealthResult) start(env []string, out *os.File) (*exec.Cmd, error) {
	begin := func(flags uintptr) (*exec.Cmd, error) {
		cmd := exec.Command(r.Path)
		cmd.Dir = "/"
		cmd.Env = append(os.Environ(), env...)
		cmd.Stdout, cmd.Stderr = out, out
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Cloneflags: flags}
		if flags&unix.CLONE_NEWUSER != 0 {
			cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: os.Geteuid(), HostID: os.Geteuid(), Size: 1}}
			cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: os.Getegid(), HostID: os.Getegid(), Size: 1}}
		}
		return cmd, cmd.Start()
	}
	flags := uintptr(unix.CLONE_NEWNET)
	if os.Geteuid() != 0 {
		flags |= unix.CLONE_NEWUSER
	}
	if cmd, err := begin(flags); err == nil {
		return cmd, nil
	}
	cmd, err := begin(0)
	r.Network = err == nil
	return cmd, err
}

// waitEnd waits until a child has ended, and leaves it to be reaped.
func waitEnd(pid int) {
	for unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOWAIT, nil) == unix.EINTR {
	}
}

// lastOf reads to the end and gives the last part.
func lastOf(r io.Reader) string {
	var last []byte
	buf := make([]byte, healthOutput)
	for {
		n, err := r.Read(buf)
		last = append(last, buf[:n]...)
		last = last[max(0, len(last)-healthOutput):]
		if err != nil {
			return string(last)
		}
	}
}
