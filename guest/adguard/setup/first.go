package main

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/crypto/bcrypt"
)

const (
	// defaults is where the image has what is copied.
	defaults = "/usr/lib/adguard"
	// password is where a password is left that nobody has chosen.
	passwordFile = "first-password"
)

// upstreams are asked if nobody has said which. They are Quad9's, without a filter of its own.
var upstreams = []string{"https://dns10.quad9.net/dns-query"}

func first() error {
	config := filepath.Join(directory, "AdGuardHome.yaml")
	if _, err := os.Stat(config); errors.Is(err, fs.ErrNotExist) {
		if err := configure(config); err != nil {
			return err
		}
	} else if err != nil {
		return err
	}
	return ownList()
}

// configure writes the configuration of the first boot. The password is safe on the disk before there is a configuration
// that wants it.
func configure(config string) error {
	template, err := os.ReadFile(filepath.Join(defaults, "AdGuardHome.yaml"))
	if err != nil {
		return err
	}
	password, err := password()
	if err != nil {
		return err
	}
	hash, err := bcrypt.GenerateFromPassword(password, bcrypt.DefaultCost)
	if err != nil {
		return fmt.Errorf("password: %w", err)
	}
	servers, err := servers()
	if err != nil {
		return err
	}
	// What is valid JSON is valid YAML.
	list, err := json.Marshal(servers)
	if err != nil {
		return err
	}
	template = bytes.Replace(template, []byte("@PASSWORD@"), hash, 1)
	template = bytes.Replace(template, []byte("@UPSTREAMS@"), list, 1)
	fmt.Printf("first boot: upstreams %s\n", list)
	return write(config, template)
}

// password is the credential adguard.password, or one that is made up and left in a file that only the service's user and
// root can read.
func password() ([]byte, error) {
	if given, err := credential("adguard.password"); given != nil || err != nil {
		return given, err
	}
	path := filepath.Join(directory, passwordFile)
	// That of an earlier try at the first boot is as good.
	if left, err := os.ReadFile(path); err == nil {
		return bytes.TrimSpace(left), nil
	}
	made := rand.Text()
	fmt.Printf("first boot: the password of the user admin is in %s\n", path)
	return []byte(made), write(path, []byte(made+"\n"))
}

// servers are the lines of the credential adguard.upstream, the name servers of the kernel's command line (`ip=`), or the
// usual ones.
func servers() ([]string, error) {
	given, err := credential("adguard.upstream")
	if err != nil {
		return nil, err
	}
	if list := strings.Fields(string(given)); len(list) > 0 {
		return list, nil
	}
	line, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return nil, err
	}
	if list := named(string(line)); len(list) > 0 {
		return list, nil
	}
	return upstreams, nil
}

// named are the name servers in words as ip=ADDRESS::GATEWAY:MASK:HOST:CARD:none:DNS:DNS.
func named(line string) (list []string) {
	for _, word := range strings.Fields(line) {
		value, found := strings.CutPrefix(word, "ip=")
		// Colons separate the fields; those of IPv6 are within brackets there, and are passed over here.
		fields := strings.Split(value, ":")
		if !found || len(fields) < 8 {
			continue
		}
		for _, field := range fields[7:] {
			if address, err := netip.ParseAddr(field); err == nil {
				list = append(list, address.String())
			}
		}
	}
	return list
}

// credential is what systemd has handed over by this name, without the white space around it, or nil.
func credential(name string) ([]byte, error) {
	content, err := os.ReadFile(filepath.Join(os.Getenv("CREDENTIALS_DIRECTORY"), name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	content = bytes.TrimSpace(content)
	if len(content) == 0 {
		return nil, fmt.Errorf("the credential %s is empty", name)
	}
	return content, nil
}

// ownList puts lists/own.txt, made if it is missing, where AdGuard Home keeps what it has fetched. It would do so itself some
// seconds after its start, and later once a day.
func ownList() error {
	own := filepath.Join(directory, "lists", "own.txt")
	content, err := os.ReadFile(own)
	if errors.Is(err, fs.ErrNotExist) {
		if content, err = os.ReadFile(filepath.Join(defaults, "own.txt")); err != nil {
			return err
		}
		err = write(own, content)
	}
	if err != nil {
		return err
	}
	kept := filepath.Join(directory, "data", "filters", "1.txt")
	if known, err := os.ReadFile(kept); err == nil && bytes.Equal(known, content) {
		return nil
	}
	return write(kept, content)
}

// write makes a file whole or not at all, with the directory that it is in.
func write(path string, content []byte) error {
	parent := filepath.Dir(path)
	if err := os.MkdirAll(parent, 0o700); err != nil {
		return err
	}
	next := path + ".new"
	file, err := os.OpenFile(next, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = file.Write(content)
	if err = errors.Join(err, file.Sync(), file.Close()); err != nil {
		return err
	}
	if err := os.Rename(next, path); err != nil {
		return err
	}
	opened, err := os.Open(parent)
	if err != nil {
		return err
	}
	return errors.Join(opened.Sync(), opened.Close())
}
