// SPDX-License-Identifier: Apache-2.0

package vmtest

import (
	"archive/tar"
	"bufio"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// errNotDeb means that a file is no Debian package.
var errNotDeb = errors.New("not a Debian package")

// maxPackageFile bounds one file of a package, in bytes.
const maxPackageFile = 512 << 20

// readDeb calls visit for each regular file of a package. Nothing is written,
// and no script of the package is ever run.
func readDeb(r io.Reader, visit func(name string, content io.Reader) error) error {
	data, name, err := debMember(bufio.NewReader(r), "data.tar")
	if err != nil {
		return err
	}
	plain, stop, err := decompressTar(data, name)
	if err != nil {
		return fmt.Errorf("unpack %s: %w", name, err)
	}
	defer stop()
	files := tar.NewReader(plain)
	for {
		header, err := files.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return fmt.Errorf("unpack %s: %w", name, err)
		}
		if header.Typeflag != tar.TypeReg {
			continue
		}
		if header.Size > maxPackageFile {
			return fmt.Errorf("unpack %s: %s has %d bytes, which is too much", name, header.Name, header.Size)
		}
		if err := visit(path.Clean("/" + header.Name)[1:], files); err != nil {
			return fmt.Errorf("unpack %s: %w", header.Name, err)
		}
	}
}

// debMember finds a member by the beginning of its name, in the ar archive
// that a package is: ar(5).
func debMember(r *bufio.Reader, prefix string) (io.Reader, string, error) {
	magic := make([]byte, 8)
	if _, err := io.ReadFull(r, magic); err != nil || string(magic) != "!<arch>\n" {
		return nil, "", errNotDeb
	}
	for {
		header := make([]byte, 60)
		if _, err := io.ReadFull(r, header); err != nil {
			return nil, "", fmt.Errorf("%w: it has no %s (truncated?)", errNotDeb, prefix)
		}
		size, err := strconv.ParseInt(strings.TrimSpace(string(header[48:58])), 10, 64)
		if err != nil || size < 0 || string(header[58:]) != "`\n" {
			return nil, "", fmt.Errorf("%w: damaged header", errNotDeb)
		}
		name := strings.TrimRight(strings.TrimSpace(string(header[:16])), "/")
		if strings.HasPrefix(name, prefix) {
			return io.LimitReader(r, size), name, nil
		}
		if _, err := io.CopyN(io.Discard, r, size+size%2); err != nil {
			return nil, "", fmt.Errorf("%w: it ends within %s", errNotDeb, name)
		}
	}
}

// decompressTar undoes what the ending of the name says.
func decompressTar(r io.Reader, name string) (plain io.Reader, stop func(), err error) {
	stop = func() {}
	switch filepath.Ext(name) {
	case ".tar":
		return r, stop, nil
	case ".gz":
		plain, err = gzip.NewReader(r)
		return plain, stop, err
	case ".zst":
		z, err := zstd.NewReader(r, zstd.WithDecoderMaxWindow(1<<31))
		if err != nil {
			return nil, nil, err
		}
		return z, z.Close, nil
	case ".xz":
		return decompressXZ(r)
	}
	return nil, nil, fmt.Errorf("unknown compression of %s", name)
}

// decompressXZ uses the tool where there is one, since it is four times as
// fast as the library.
func decompressXZ(r io.Reader) (plain io.Reader, stop func(), err error) {
	tool, err := exec.LookPath("xz")
	if err != nil {
		plain, err = xz.NewReader(bufio.NewReader(r))
		return plain, func() {}, err
	}
	cmd := exec.Command(tool, "-dc")
	cmd.Stdin = r
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, nil, err
	}
	return out, func() {
		out.Close() // ends the tool if something is left
		cmd.Wait()
	}, nil
}

// unpackKernel puts what a guest needs of some packages into dir.
func unpackKernel(ctx context.Context, k *LockedKernel, debs []string, dir string) error {
	var image []byte
	for _, deb := range debs {
		if err := unpackDeb(deb, dir, &image); ctx.Err() != nil {
			return context.Cause(ctx)
		} else if err != nil {
			return fmt.Errorf("%s: %w", filepath.Base(deb), err)
		}
	}
	if image == nil {
		return errors.New("no vmlinuz in the packages")
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	release, err := bzImageRelease(image)
	if err != nil {
		return err
	}
	if err := writeBootable(image, filepath.Join(dir, kernelFile)); err != nil {
		return err
	}
	modules, err := indexModules(dir)
	if err != nil {
		return err
	}
	if err := writeModuleIndex(dir, modules); err != nil {
		return err
	}
	return writeManifest(dir, manifest{ID: k.ID, Release: release, Version: k.Version}, true)
}

func unpackDeb(deb, dir string, image *[]byte) error {
	f, err := os.Open(deb)
	if err != nil {
		return err
	}
	defer f.Close()
	return readDeb(f, func(name string, content io.Reader) error {
		base := path.Base(name)
		switch {
		case strings.HasPrefix(base, "vmlinuz"):
			var err error
			*image, err = io.ReadAll(content)
			return err
		case base == "config" || strings.HasPrefix(base, "config-"):
			return writeFile(filepath.Join(dir, configFile), content)
		case base == builtInFile:
			return writeFile(filepath.Join(dir, builtInFile), content)
		case moduleEnding(base) != "":
			_, below, found := strings.Cut(name, "lib/modules/")
			if !found {
				return nil
			}
			return writeFile(filepath.Join(dir, "modules", filepath.FromSlash(below)), content)
		}
		return nil
	})
}

func writeFile(name string, content io.Reader) error {
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		return err
	}
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	if _, err := io.Copy(f, content); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}
