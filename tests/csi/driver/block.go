package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const loopMajor = 7

// A volume's device is a file behind a loop device of its node.
func (s store) image(id string) string { return filepath.Join(s.content(id), "image") }

// The number of the loop device of a volume; none is below zero.
func loopOf(id string) int {
	bound, _ := filepath.Glob("/sys/block/loop*/loop")
	for _, path := range bound {
		var number int
		if _, err := fmt.Sscanf(path, "/sys/block/loop%d/", &number); err != nil {
			continue
		}
		loop, err := openLoop(number)
		if err != nil {
			continue
		}
		info, err := unix.IoctlLoopGetStatus64(int(loop.Fd()))
		loop.Close()
		if err == nil && unix.ByteSliceToString(info.File_name[:]) == id {
			return number
		}
	}
	return -1
}

func makeNode(path string, number int) error {
	err := unix.Mknod(path, unix.S_IFBLK|0o660, int(unix.Mkdev(loopMajor, uint32(number))))
	if errors.Is(err, unix.EEXIST) {
		return nil
	}
	return err
}

func openLoop(number int) (*os.File, error) {
	path := fmt.Sprintf("/dev/loop%d", number)
	if err := makeNode(path, number); err != nil {
		return nil, err
	}
	return os.OpenFile(path, os.O_RDWR, 0)
}

func internal(err error) error {
	if err == nil {
		return nil
	}
	return status.Error(codes.Internal, err.Error())
}

func (s store) attach(id string, bytes int64) error {
	if loopOf(id) >= 0 {
		return nil
	}
	file, err := os.OpenFile(s.image(id), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer file.Close()
	if err := file.Truncate(bytes); err != nil {
		return err
	}
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer control.Close()
	// Another driver on this machine may take the free one first.
	for range 10 {
		number, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return err
		}
		loop, err := openLoop(number)
		if err != nil {
			return err
		}
		config := unix.LoopConfig{Fd: uint32(file.Fd())}
		copy(config.Info.File_name[:], id)
		err = unix.IoctlLoopConfigure(int(loop.Fd()), &config)
		loop.Close()
		if !errors.Is(err, unix.EBUSY) {
			return err
		}
	}
	return errors.New("no loop device is free")
}

func detach(id string) error {
	number := loopOf(id)
	if number < 0 {
		return nil
	}
	loop, err := openLoop(number)
	if err != nil {
		return err
	}
	defer loop.Close()
	_, err = unix.IoctlRetInt(int(loop.Fd()), unix.LOOP_CLR_FD)
	return err
}

func (s store) grow(id string, bytes int64) error {
	number := loopOf(id)
	if number < 0 {
		return fmt.Errorf("%s is no device here", id)
	}
	if err := os.Truncate(s.image(id), bytes); err != nil {
		return err
	}
	loop, err := openLoop(number)
	if err != nil {
		return err
	}
	defer loop.Close()
	_, err = unix.IoctlRetInt(int(loop.Fd()), unix.LOOP_SET_CAPACITY)
	return err
}
