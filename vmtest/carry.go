// SPDX-License-Identifier: Apache-2.0

package vmtest

import (
	"bufio"
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// Carry returns what a program of this machine needs to run in a guest: the
// program, its interpreter, its shared libraries and theirs, at the paths that
// they have here. A script brings the program that its first line names. What
// a program loads while it runs (plugins, locales, modules of an interpreter)
// cannot be known, and has to be added.
func Carry(program string) (path string, files []File, err error) {
	path, err = exec.LookPath(program)
	if err != nil {
		return "", nil, fmt.Errorf("carry %s into the guest: %w", program, err)
	}
	if path, err = filepath.Abs(path); err != nil {
		return "", nil, err
	}
	c := carrier{have: make(map[string]bool)}
	if err := c.program(path, 0); err != nil {
		return "", nil, fmt.Errorf("carry %s into the guest: %w", program, err)
	}
	return path, c.files, nil
}

// HostCommand returns a command that runs a program of this machine in a
// guest, with the arguments.
func HostCommand(program string, args ...string) (*Command, error) {
	path, files, err := Carry(program)
	if err != nil {
		return nil, err
	}
	return &Command{Path: path, Args: args, Files: files}, nil
}

type carrier struct {
	files []File
	have  map[string]bool
	dirs  []string // where the dynamic linker looks; read when needed
}

// add puts a file at its true path, and a link where it is known by another.
// (A program finds libraries relative to its true path.) It returns the latter
// and whether it is new.
func (c *carrier) add(path string) (real string, isNew bool, err error) {
	if real, err = filepath.EvalSymlinks(path); err != nil {
		return "", false, err
	}
	if real != path && !c.have[path] {
		c.have[path] = true
		c.files = append(c.files, File{Path: path, LinkTo: real})
	}
	if c.have[real] {
		return real, false, nil
	}
	c.have[real] = true
	c.files = append(c.files, File{Path: real, Source: real})
	return real, true, nil
}

const maxScripts = 4 // interpreters that are scripts themselves: BINPRM_MAX_RECURSION

func (c *carrier) program(path string, depth int) error {
	real, isNew, err := c.add(path)
	if err != nil || !isNew {
		return err
	}
	f, err := os.Open(real)
	if err != nil {
		return err
	}
	defer f.Close()
	first, err := bufio.NewReader(f).ReadString('\n')
	if script, ok := strings.CutPrefix(first, "#!"); ok && err == nil {
		if depth == maxScripts {
			return errors.New("too many interpreters, one after another")
		}
		return c.interpreter(strings.Fields(script), depth)
	}
	if !strings.HasPrefix(first, elf.ELFMAG) {
		return fmt.Errorf("%s is neither an ELF file nor a script", real)
	}
	return c.elf(real)
}

func (c *carrier) interpreter(words []string, depth int) error {
	if len(words) == 0 {
		return errors.New("its first line names no interpreter")
	}
	if err := c.program(words[0], depth+1); err != nil {
		return err
	}
	if filepath.Base(words[0]) != "env" || len(words) < 2 {
		return nil
	}
	path, err := exec.LookPath(words[len(words)-1])
	if err != nil {
		return err
	}
	return c.program(path, depth+1)
}

// elf brings what an ELF file asks for.
func (c *carrier) elf(path string) error {
	f, err := elf.Open(path)
	if err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	defer f.Close()
	if f.Machine != elf.EM_X86_64 {
		return fmt.Errorf("%s is for another processor (%s)", path, f.Machine)
	}
	if interp := interpreterOf(f); interp != "" {
		if _, _, err := c.add(interp); err != nil {
			return err
		}
	}
	needed, err := f.ImportedLibraries()
	if err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	own := runPath(f, filepath.Dir(path))
	for _, name := range needed {
		library, err := c.findLibrary(name, own)
		if err != nil {
			return fmt.Errorf("%s needs %s: %w", path, name, err)
		}
		real, isNew, err := c.add(library)
		if err != nil {
			return err
		}
		if isNew {
			if err := c.elf(real); err != nil {
				return err
			}
		}
	}
	return nil
}

func interpreterOf(f *elf.File) string {
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP && p.Filesz < 4096 {
			name := make([]byte, p.Filesz)
			if _, err := p.ReadAt(name, 0); err == nil {
				return strings.TrimRight(string(name), "\x00")
			}
		}
	}
	return ""
}

// runPath returns the directories that an ELF file itself names.
func runPath(f *elf.File, origin string) []string {
	var dirs []string
	for _, tag := range []elf.DynTag{elf.DT_RUNPATH, elf.DT_RPATH} {
		values, err := f.DynString(tag)
		if err != nil || len(values) == 0 {
			continue
		}
		for _, dir := range filepath.SplitList(strings.Join(values, ":")) {
			dirs = append(dirs, strings.NewReplacer("$ORIGIN", origin, "${ORIGIN}", origin).Replace(dir))
		}
		break // DT_RPATH counts only without DT_RUNPATH: ld.so(8)
	}
	return dirs
}

func (c *carrier) findLibrary(name string, own []string) (string, error) {
	if strings.Contains(name, "/") {
		return name, nil
	}
	if c.dirs == nil {
		c.dirs = linkerDirs("/etc/ld.so.conf", 0)
		c.dirs = append(c.dirs, "/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib64", "/usr/lib64", "/lib", "/usr/lib")
	}
	for _, dir := range slices.Concat(own, filepath.SplitList(os.Getenv("LD_LIBRARY_PATH")), c.dirs) {
		path := filepath.Join(dir, name)
		f, err := elf.Open(path)
		if err != nil {
			continue
		}
		fits := f.Machine == elf.EM_X86_64
		f.Close()
		if fits {
			return path, nil
		}
	}
	return "", fs.ErrNotExist
}

// linkerDirs reads the configuration of the dynamic linker: ldconfig(8).
func linkerDirs(file string, depth int) []string {
	text, err := os.ReadFile(file)
	if err != nil || depth > 4 {
		return nil
	}
	var dirs []string
	for line := range strings.Lines(string(text)) {
		line, _, _ = strings.Cut(line, "#")
		fields := strings.Fields(line)
		switch {
		case len(fields) == 2 && fields[0] == "include":
			pattern := fields[1]
			if !filepath.IsAbs(pattern) {
				pattern = filepath.Join(filepath.Dir(file), pattern)
			}
			included, _ := filepath.Glob(pattern)
			for _, f := range included {
				dirs = append(dirs, linkerDirs(f, depth+1)...)
			}
		case len(fields) == 1:
			dirs = append(dirs, fields[0])
		}
	}
	return dirs
}
