package main_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"satchel/store/image/boot"
)

// TestBoot starts a real machine, an emulated one with a Debian kernel and a disk, from its image: it runs version 1, gets version 2 from a
// neighbour over the network and boots into it; the power is cut, the next boot tries it again, its health check fails, and the machine is back on
// version 1 by itself. Then it gets version 3, which stays.
func TestBoot(t *testing.T) {
	s := newSchool(t, 2, "v4", "--product", "xo-os", "--class", "system", "--may", "run")
	pc := newPC(t, s)
	pub := s.laptops[0]
	pub.start()
	pub.publish("xo-os", "1", pc.tree("1", "true"))
	pc.install()

	pc.on("satchel.seq=2")
	pc.expect("runs 1")
	pc.expect("1 is healthy")
	pub.publish("xo-os", "2", pc.tree("2", "echo no lesson opens; exit 1"))
	pc.expect("reboots, with 2 to be tried")
	pc.off()

	pc.on("satchel.hang")
	pc.expect("runs 2")
	pc.cut()

	pc.on("")
	pc.expect("runs 2")
	pc.expect("2 is not healthy, reboots")
	pc.off()

	pc.on("satchel.seq=3")
	pc.expect("runs 1")
	pc.expect("1 is healthy")
	pub.publish("xo-os", "3", pc.tree("3", "true"))
	pc.expect("reboots, with 3 to be tried")
	pc.off()

	for range 2 { // the second time nothing is on trial any more
		pc.on("")
		pc.expect("runs 3")
		pc.expect("3 is healthy")
		pc.off()
	}
	r := pc.record()
	if !strings.HasPrefix(r.Live, "xo-os-1-3-") || !strings.HasPrefix(r.Previous, "xo-os-1-1-") || r.Trial != "" || r.Booted != r.Live ||
		len(r.Failed) != 1 || !strings.HasPrefix(r.Failed[0].ID, "xo-os-1-2-") {
		t.Errorf("in the end the record is\n%s", r.Encode())
	}
	pub.stop()
}

// pc is an emulated machine with a disk, on which a home and an image are.
type pc struct {
	t       *testing.T
	s       *school
	m       *machine // it before it has a disk, in a namespace
	dir     string
	modules []string // kernel modules, in the order of loading
	kernel  string

	run     *exec.Cmd
	lines   chan string // of the console, that the machine says for us
	console *bytes.Buffer
	ended   chan struct{}
}

// drivers are the kernel modules that the machine needs, in the order of loading.
var drivers = []string{"virtio_ring", "virtio", "virtio_pci_legacy_dev", "virtio_pci_modern_dev", "virtio_pci", "virtio_blk", "failover", "net_failover", "virtio_net"}

func newPC(t *testing.T, s *school) *pc {
	t.Helper()
	if runtime.GOARCH != "amd64" {
		skip(t, "the emulated machine is an amd64 one")
	}
	for name, from := range map[string]string{"qemu-system-x86_64": "qemu-system-x86", "busybox": "busybox-static", "mke2fs": "e2fsprogs", "debugfs": "e2fsprogs"} {
		if _, err := exec.LookPath(name); err != nil {
			skip(t, "booting needs "+name+", from the package "+from)
		}
	}
	p := &pc{t: t, s: s, m: s.laptops[1], dir: t.TempDir()}
	if err := p.findKernel(); err != nil {
		skip(t, "booting needs a kernel, see .ci/tools: "+err.Error())
	}
	sw := s.name + "-sw"
	s.ip("-n", sw, "tuntap", "add", "dev", "pc", "mode", "tap")
	s.ip("-n", sw, "link", "set", "pc", "master", "br0", "up")
	for _, name := range []string{"satchel", "boot-select"} {
		build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", filepath.Join(p.dir, name), "satchel/cmd/"+name)
		build.Env = append(os.Environ(), "CGO_ENABLED=0")
		s.must(build)
	}
	p.initramfs()
	t.Cleanup(p.cut)
	return p
}

// findKernel looks for a kernel with its modules where .ci/tools puts one.
func (p *pc) findKernel() error {
	cache, err := os.UserCacheDir()
	if err != nil {
		return err
	}
	top := filepath.Join(cache, "satchel-test", "kernel")
	kernels, _ := filepath.Glob(filepath.Join(top, "boot", "vmlinuz-*"))
	if len(kernels) == 0 {
		return fmt.Errorf("none below %s", top)
	}
	p.kernel = kernels[len(kernels)-1]
	found := map[string]string{}
	err = filepath.WalkDir(top, func(path string, _ fs.DirEntry, err error) error {
		if name, ok := strings.CutSuffix(filepath.Base(path), ".ko"); ok {
			found[strings.ReplaceAll(name, "-", "_")] = path
		}
		return err
	})
	for _, name := range drivers {
		if found[name] == "" {
			return errors.Join(err, fmt.Errorf("no module %s below %s", name, top))
		}
		p.modules = append(p.modules, found[name])
	}
	return err
}

// initScript is what starts the machine: all that an initramfs must do.
const initScript = `#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc && mount -t devtmpfs dev /dev
for m in /modules/*; do insmod $m; done
until [ -b /dev/vda ]; do sleep 0.1; done
mount -t ext4 /dev/vda /disk
tree=$(boot-select /disk/image) || exec sh
mount --bind $tree /system && mount -o remount,ro,bind /system
mount --move /disk /system/mnt
umount /dev /proc
exec switch_root /system /sbin/init
`

// systemScript is the first process of every version.
const systemScript = `#!/bin/sh
export PATH=/bin HOME=/tmp SATCHEL_HOME=/mnt/home
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev; mount -t tmpfs tmp /tmp
exec >/dev/console 2>&1 </dev/null
version=$(cat /etc/version)
say() { echo "machine: $*"; }
leave() { satchel down; sync; mount -o remount,ro /mnt; reboot -f; }
say runs $version
grep -q satchel.hang /proc/cmdline && exec sleep 100000
ip link set lo up; ip addr add 10.77.0.99/24 dev eth0; ip link set eth0 up
satchel up &
until satchel status --json | grep -q '"running":true'; do sleep 0.2; done
if ! satchel confirm --image /mnt/image; then
	say $version is not healthy, reboots
	leave
fi
say $version is healthy
seq=$(sed -n 's/.*satchel.seq=\([0-9]*\).*/\1/p' /proc/cmdline)
if [ -n "$seq" ]; then
	satchel wait xo-os --seq $seq && satchel apply xo-os && say reboots, with $seq to be tried
fi
leave
`

// initramfs packs what the kernel starts with.
func (p *pc) initramfs() {
	p.t.Helper()
	busybox, err := exec.LookPath("busybox")
	p.check(err)
	var a archive
	for _, dir := range []string{"bin", "proc", "dev", "disk", "system", "modules"} {
		a.add(dir, 0o40755, nil)
	}
	a.file(p, "bin/busybox", busybox)
	a.file(p, "bin/boot-select", filepath.Join(p.dir, "boot-select"))
	for i, m := range p.modules {
		a.file(p, fmt.Sprintf("modules/%02d.ko", i), m)
	}
	a.add("init", 0o100755, []byte(initScript))
	a.add("TRAILER!!!", 0, nil)
	p.check(os.WriteFile(filepath.Join(p.dir, "initramfs"), a.Bytes(), 0o644))
}

// archive is a cpio archive of the kind that the kernel reads.
type archive struct{ bytes.Buffer }

func (a *archive) file(p *pc, name, from string) {
	p.t.Helper()
	data, err := os.ReadFile(from)
	p.check(err)
	a.add(name, 0o100755, data)
}

func (a *archive) add(name string, mode int, data []byte) {
	fmt.Fprintf(a, "070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X", a.Len(), mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name)+1, 0)
	a.WriteString(name + "\x00")
	a.pad()
	a.Write(data)
	a.pad()
}

func (a *archive) pad() {
	for a.Len()%4 != 0 {
		a.WriteByte(0)
	}
}

// tree makes a version of the system, with a health check.
func (p *pc) tree(version, check string) string {
	p.t.Helper()
	top := p.t.TempDir()
	for _, dir := range []string{"bin", "sbin", "etc", "proc", "sys", "dev", "mnt", "tmp", "health.d"} {
		p.check(os.Mkdir(filepath.Join(top, dir), 0o755))
	}
	busybox, err := exec.LookPath("busybox")
	p.check(err)
	for to, from := range map[string]string{"bin/busybox": busybox, "bin/satchel": filepath.Join(p.dir, "satchel")} {
		data, err := os.ReadFile(from)
		p.check(err)
		p.check(os.WriteFile(filepath.Join(top, to), data, 0o755))
	}
	for _, name := range []string{"sh", "mount", "cat", "grep", "sleep", "ip", "sed", "sync", "reboot", "echo"} {
		p.check(os.Symlink("busybox", filepath.Join(top, "bin", name)))
	}
	for name, text := range map[string]string{"sbin/init": systemScript, "etc/version": version + "\n", "health.d/works": "#!/bin/sh\n" + check + "\n"} {
		p.check(os.WriteFile(filepath.Join(top, name), []byte(text), 0o755))
	}
	return top
}

// install has version 1 live on the disk, as a technician does it: on another machine, below the same path.
func (p *pc) install() {
	p.t.Helper()
	disk := filepath.Join(p.dir, "disk")
	p.check(os.Mkdir(disk, 0o755))
	p.check(os.Rename(p.m.home, filepath.Join(disk, "home")))
	p.m.home, p.m.below = "/mnt/home", disk
	p.m.run("follow", "xo-os", "--image", "/mnt/image")
	p.m.start()
	p.m.ready("xo-os", 1)
	p.m.run("apply", "xo-os")
	p.m.stop()
	file := p.disk()
	f, err := os.Create(file)
	p.check(err)
	p.check(errors.Join(f.Truncate(1<<30), f.Close()))
	p.s.must(exec.Command("mke2fs", "-q", "-t", "ext4", "-d", disk, file))
}

func (p *pc) disk() string { return filepath.Join(p.dir, "disk.img") }

// on starts the machine.
func (p *pc) on(options string) {
	p.t.Helper()
	p.run = exec.Command("ip", "netns", "exec", p.s.name+"-sw", "qemu-system-x86_64", "-accel", "tcg", "-cpu", "max", "-m", "256",
		"-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio", "-no-reboot",
		"-kernel", p.kernel, "-initrd", filepath.Join(p.dir, "initramfs"), "-append", "console=ttyS0 quiet panic=-1 "+options,
		"-drive", "file="+p.disk()+",if=virtio,format=raw,cache=unsafe",
		"-netdev", "tap,id=net,ifname=pc,script=no,downscript=no", "-device", "virtio-net-pci,netdev=net")
	out, err := p.run.StdoutPipe()
	p.check(err)
	p.run.Stderr = p.run.Stdout
	p.check(p.run.Start())
	p.console, p.lines, p.ended = &bytes.Buffer{}, make(chan string, 100), make(chan struct{})
	go p.listen(out, p.run, p.ended)
}

// listen reads the console until the machine is off.
func (p *pc) listen(out io.Reader, run *exec.Cmd, ended chan struct{}) {
	defer close(ended)
	defer close(p.lines)
	s := bufio.NewScanner(out)
	for s.Scan() {
		line := strings.TrimRight(s.Text(), "\r")
		fmt.Fprintln(p.console, line)
		if _, said, ok := strings.Cut(line, "machine: "); ok {
			p.lines <- said
		}
	}
	run.Wait()
}

// expect waits for the machine to say something, and it must be this.
func (p *pc) expect(want string) {
	p.t.Helper()
	select {
	case got, ok := <-p.lines:
		if !ok || got != want {
			p.cut()
			p.t.Fatalf("the machine says %q, want %q\n%s", got, want, p.console)
		}
		p.t.Logf("the machine %s", got)
	case <-time.After(patience):
		p.cut()
		p.t.Fatalf("the machine does not say %q\n%s", want, p.console)
	}
}

// off waits until the machine has rebooted, which here means that it stops.
func (p *pc) off() {
	p.t.Helper()
	select {
	case got, ok := <-p.lines:
		if ok {
			p.cut()
			p.t.Fatalf("the machine says %q instead of rebooting\n%s", got, p.console)
		}
		<-p.ended
		p.run = nil
	case <-time.After(patience):
		p.cut()
		p.t.Fatalf("the machine does not reboot\n%s", p.console)
	}
}

// cut pulls the plug.
func (p *pc) cut() {
	if p.run != nil {
		p.run.Process.Kill()
		<-p.ended
		p.run = nil
	}
}

// record is the boot record on the disk.
func (p *pc) record() (best boot.Record) {
	p.t.Helper()
	for slot := range 2 {
		text := p.s.must(exec.Command("debugfs", "-R", "cat /image/"+boot.SlotName(slot), p.disk()))
		if r, err := boot.Parse([]byte(text)); err == nil && r.Generation > best.Generation {
			best = r
		}
	}
	return best
}

func (p *pc) check(err error) {
	p.t.Helper()
	if err != nil {
		p.t.Fatal(err)
	}
}
