// SPDX-License-Identifier: Apache-2.0

package vmtest

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// packageFileLimit bounds a file of the package's directory that is carried
// into a guest because it is there, in bytes. testdata has no bound.
const packageFileLimit = 8 << 20

// GoTest returns the command that runs a Go test binary in a guest as `go test`
// would run it here: in the package's directory dir, with the files of it and
// testdata, and with what the flags name (profiles, coverage, logs) coming back
// to the same paths. So do files of testdata that the test writes.
func GoTest(binary, dir string, args []string) (*Command, error) {
	c, err := HostCommand(binary, args...)
	if err != nil {
		return nil, err
	}
	if c.Dir, err = filepath.Abs(dir); err != nil {
		return nil, err
	}
	files, err := packageFiles(c.Dir)
	if err != nil {
		return nil, fmt.Errorf("carry the package into the guest: %w", err)
	}
	c.Files = append(c.Files, files...)
	c.CollectTo = "/"
	c.Collect = []string{Literal(filepath.Join(c.Dir, "testdata"))}
	for _, path := range testOutputs(c.Dir, args) {
		c.Collect = append(c.Collect, Literal(path))
		parent := filepath.Dir(path)
		if info, err := os.Stat(path); err == nil && info.IsDir() {
			parent = path
		}
		c.Files = append(c.Files, File{Path: parent, Mode: fs.ModeDir | 0o777})
	}
	c.Env = testEnv(c.Dir)
	if coverage := os.Getenv("GOCOVERDIR"); coverage != "" {
		c.Files = append(c.Files, File{Path: coverage, Mode: fs.ModeDir | 0o777})
		c.Collect = append(c.Collect, Literal(coverage))
	}
	return c, nil
}

// testEnv is this process's environment, less what is elsewhere in a guest.
func testEnv(dir string) []string {
	var env []string
	for _, v := range os.Environ() {
		switch name, _, _ := strings.Cut(v, "="); name {
		case "TMPDIR", "HOME", "PWD", "OLDPWD":
		default:
			env = append(env, v)
		}
	}
	return append(env, "TMPDIR=/tmp", "HOME=/root", "PWD="+dir)
}

func packageFiles(dir string) ([]File, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var files []File
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		info, err := os.Stat(path)
		if err != nil {
			continue // a dangling link
		}
		if e.Name() == "testdata" || info.Mode().IsRegular() && info.Size() <= packageFileLimit {
			files = append(files, File{Path: path, Source: path})
		}
	}
	return files, nil
}

// outputFlags of test binaries name files or directories that a test writes.
var outputFlags = map[string]bool{
	"coverprofile": true, "cpuprofile": true, "memprofile": true, "blockprofile": true,
	"mutexprofile": true, "trace": true, "testlogfile": true, "gocoverdir": true,
}

// testOutputs returns the absolute paths that the flags name.
func testOutputs(dir string, args []string) []string {
	base := dir
	var names []string
	for i, arg := range args {
		name, value, hasValue := strings.Cut(strings.TrimLeft(arg, "-"), "=")
		name, isTest := strings.CutPrefix(name, "test.")
		if arg == "--" || !strings.HasPrefix(arg, "-") && i > 0 && !strings.HasPrefix(args[i-1], "-") {
			break // the arguments of the test itself
		}
		if !isTest || !strings.HasPrefix(arg, "-") {
			continue
		}
		if !hasValue && i+1 < len(args) {
			value = args[i+1]
		}
		switch {
		case name == "outputdir" && value != "":
			base = value
		case outputFlags[name] && value != "":
			names = append(names, value)
		}
	}
	for i, name := range names {
		if !filepath.IsAbs(name) {
			names[i] = filepath.Join(base, name)
		}
	}
	return names
}

// Literal makes a pattern of Command.Collect that matches the path alone.
func Literal(path string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(path)
}
